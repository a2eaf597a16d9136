"""Suffixes of video files, by which they are found in a folder."""

VIDEO_SUFFIXES = (
    *(".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp"),
    *(".mts", ".ts", ".vob", ".divx", ".ogg", ".ogv"),
)
