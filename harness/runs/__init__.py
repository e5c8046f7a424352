"""The main job: claim a folder, admit models, craft, score, record; plan it, reproduce it, time it.

It may import every folder of the harness up to `board`, and the whole zoo. Begin with `runner`, whose stages are modules of
their own; `workspace` is what a worker has at hand, `executors` decide where it works. (The folder is called `runs`, as
`harness.run` is the function.)
"""
