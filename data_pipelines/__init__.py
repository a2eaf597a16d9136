"""Programs that turn raw data sets into manifests and video files."""
