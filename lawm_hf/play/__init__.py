# SPDX-License-Identifier: Apache-2.0
"""A page to play with a run: imagine futures, drive the tabletop, look at health over updates.

    lawm-hf play                      # the small checkpoint that comes with the package
    lawm-hf play outputs/pretrain

What is computed stands in files that know nothing of Gradio (`studio`, `upload`, `game`, `record`);
`page` and its three `tab_*` put it on a page.
"""
