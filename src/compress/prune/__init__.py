"""From a decision to a smaller network: cost, widths, budgets, selection, surgery, least squares, controls."""
