# The recipe that certifies most in docs/tutorials/train.md.
_base_ = ['./consistency.py']
