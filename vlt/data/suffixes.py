"""How the names of video files end, where a folder is searched for them."""

VIDEO_SUFFIXES = (
    *(".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp"),
    *(".mts", ".ts", ".vob", ".divx", ".ogg", ".ogv"),
)
