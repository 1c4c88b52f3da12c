"""The fifth experiment: a better encoder whose queries find what the old one stored (C8, C9 and C10).

Tier A trains heads on cached features of frozen trunks, tier B whole encoders at 64 pixels. `settings` says who knew
what, `trunks` trains what the heads of tier A stand on.
"""
