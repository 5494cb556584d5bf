"""From a decision to a smaller network: cost model, widths, budgets, selection, surgery, refit, controls."""
