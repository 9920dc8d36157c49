# SPDX-License-Identifier: Apache-2.0
"""What is written to disk by more than one package: LeRobot sets, videos, files all or nothing."""
