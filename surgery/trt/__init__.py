"""The only place that imports tensorrt or tensorrt_rtx: always in a child process."""
