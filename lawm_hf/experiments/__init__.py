# SPDX-License-Identifier: Apache-2.0
"""Experiments: a plan becomes stages, stages a table of episodes, the table a report."""
