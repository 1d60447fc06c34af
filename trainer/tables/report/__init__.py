"""A page about runs: `runs` reads their folders, `curves`, `gallery`, `settings` and `views` prepare what is shown.

`page` fills the template `page.html.j2`, with the looks of `page.css` and what a reader can move of `page.js`.
"""
