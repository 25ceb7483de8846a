"""The demo page: its words, what it shows for each event of an answer, and its style sheet.

``texts.py`` holds every word in English and Chinese, ``view.py`` maps events to a page state and that state to HTML
(pure functions, no gradio), ``page.css`` is how it looks. ``app.py`` at the root joins them to gradio components.
"""
