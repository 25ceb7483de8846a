"""The page: its words, what it shows, what its buttons do, and how it is served.

Read in this order: ``texts.py`` (every word, in English and Chinese), ``line.py`` (who waits), ``desk.py`` (from a clip
to the events of its answer: reading, measuring, waiting, writing), ``signals.py`` and ``cues.py`` (what is measured,
and which cues clash), ``view.py`` (events to a page state, and that state to HTML), ``report.py`` (what is taken away),
``visits.py`` (what one open page's buttons do). Only ``demo.py``, which joins all this to components, and ``desk.py``,
for ZeroGPU's errors, import gradio. ``app.py`` at the root is the command.
"""
