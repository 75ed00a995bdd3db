"""What flexray is measured against, each in processes of its own and, where it needs other packages, an environment of its own.

`make peers` makes the environments from flower.txt and pfl.txt. Nothing in here imports flexray.
"""
