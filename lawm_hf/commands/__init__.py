# SPDX-License-Identifier: Apache-2.0
"""The commands of `lawm-hf`, a file each: their flags and, of tools, what they do."""
