"""Networks as engines run them: files of integers, written from the networks here.

It may import `loading` and all below it, and the packages of the extra `engines` inside the functions that need them.
Begin with `export_parts`, which takes a quantised network apart, and `export_onnx`, which writes it; `importing` makes an entry
of a TFLite file, `agreement` holds both forms of a network beside each other.
"""
