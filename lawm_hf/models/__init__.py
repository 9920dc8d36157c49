# SPDX-License-Identifier: Apache-2.0
"""Policies, world models and the processor. Files import only their siblings (Hub remote code)."""
