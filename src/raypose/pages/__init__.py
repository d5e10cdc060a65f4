"""Self-contained HTML pages: they load nothing from anywhere, run no script, and their security policy forbids both."""

from raypose.pages.render import data_uri, render_page

__all__ = ["data_uri", "render_page"]
