"""The boards as a static site: plain files that work from a disk, offline, with nothing fetched from anywhere.

`build` reads leaderboard folders and the registry and writes pages; it imports no torch. Begin with `pages`, which lists the
pages; `view` says what a board page shows, `row_view` what a row's page shows, `catalogue` where attacks are described,
`viewer` how images are shown. Whatever comes from a submission is escaped by the templates, which know no other way.
"""

from harness.board.site.pages import Built, build

__all__ = ["Built", "build"]
