# SPDX-License-Identifier: Apache-2.0
"""The widget of the Space."""

from pathlib import Path

import evaluate
from evaluate.utils import launch_gradio_widget

launch_gradio_widget(evaluate.load(str(Path(__file__).with_name("success_rate.py"))))
