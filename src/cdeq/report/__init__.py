"""Result files, and the tables and pictures made from them.

Everything here reads result JSON only: no tensor, no model, no torch. Matplotlib (extra `report`)
is imported by the functions that draw.
"""

from cdeq.report.combining import combine as combine
from cdeq.report.listing import listing as listing
from cdeq.report.merging import merge as merge
from cdeq.report.metrics import METRICS as METRICS
from cdeq.report.metrics import Metric as Metric
from cdeq.report.metrics import find_metric as find_metric
from cdeq.report.panels import draw_panels as draw_panels
from cdeq.report.panels import panels as panels
from cdeq.report.plots import curve as curve
from cdeq.report.plots import draw as draw
from cdeq.report.results import Results as Results
from cdeq.report.rows import MODELS as MODELS
from cdeq.report.rows import Key as Key
from cdeq.report.rows import Row as Row
from cdeq.report.rows import sort_models as sort_models
from cdeq.report.tables import Table as Table
from cdeq.report.tables import pivot as pivot
from cdeq.report.tables import summary as summary
