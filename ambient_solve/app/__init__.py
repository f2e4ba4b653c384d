"""The page that `ambient-solve app` opens. `job` runs what it says, `panels` draws; the other files know gradio."""
