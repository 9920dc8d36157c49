# SPDX-License-Identifier: Apache-2.0
"""The formats that are read, one file each; `lawm_hf.data.spec` names them."""
