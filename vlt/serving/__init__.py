"""A page in the browser over an index of one's own videos."""

NEEDED = "the page needs Starlette and uvicorn: pip install 'vlt[demo]'"
