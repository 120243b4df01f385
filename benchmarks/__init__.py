"""The data path against the engines that people use today, alternating in one run."""
