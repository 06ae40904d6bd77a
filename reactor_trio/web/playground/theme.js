/** The colour theme, set before anything is drawn: this one is no module, so that the browser waits for it. */

(() => {
  const KEY = "reactor-theme";
  const saved = () => {
    try {
      return localStorage.getItem(KEY);
    } catch {
      return null; // storage may be switched off
    }
  };
  const root = document.documentElement;
  const apply = (/** @type {string | null} */ theme) => {
    if (theme === "light" || theme === "dark") root.dataset.theme = theme;
    else delete root.dataset.theme;
  };
  apply(saved());
  root.addEventListener("reactor-theme", (event) => {
    const theme = /** @type {CustomEvent<string>} */ (event).detail;
    apply(theme);
    try {
      localStorage.setItem(KEY, theme);
    } catch {
      // It then lasts as long as the page.
    }
  });
})();
