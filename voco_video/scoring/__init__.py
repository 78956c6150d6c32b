"""What predictions are worth: metrics, a judge, comparisons and reports. No model is needed here, and no torch."""
