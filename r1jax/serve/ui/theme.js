// Runs before the first paint, so that a chosen theme does not flash into place.
const chosen = localStorage.getItem("r1jax.theme");
if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
