"""The page. Gradio lives here and nowhere else."""
