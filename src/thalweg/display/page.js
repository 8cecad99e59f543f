// Draws every figure from the data beside it, in the colours of the reader's theme, and again when the theme changes.
(function () {
  "use strict";
  if (typeof Plotly === "undefined") return; // the still pictures stay
  function colour(name) { return getComputedStyle(document.body).getPropertyValue("--tw-" + name).trim(); }
  function themed(layout, narrow) {
    const copy = JSON.parse(JSON.stringify(layout));
    copy.font = Object.assign({}, copy.font, { color: colour("text"), size: narrow ? 11 : 13,
      family: getComputedStyle(document.body).fontFamily });
    copy.hoverlabel = { bgcolor: colour("panel"), bordercolor: colour("rule"), font: { color: colour("text") }, align: "left" };
    copy.modebar = { bgcolor: "rgba(0,0,0,0)", color: colour("muted"), activecolor: colour("text") };
    for (const name of ["xaxis", "yaxis"]) {
      Object.assign(copy[name], { gridcolor: colour("rule"), zerolinecolor: colour("muted"), linecolor: colour("muted") });
      if (narrow) copy[name].nticks = 5;
    }
    if (narrow) { copy.margin.l = 48; copy.margin.r = 8; }
    return copy;
  }
  function drawAll() {
    for (const source of document.querySelectorAll("script[data-plot]")) {
      const place = source.previousElementSibling;
      const spec = JSON.parse(source.textContent);
      if (!place.classList.contains("tw-drawn")) { place.textContent = ""; place.classList.add("tw-drawn"); }
      const narrow = place.clientWidth < 480;
      Plotly.react(place, spec.data, themed(spec.layout, narrow), {
        responsive: true, displaylogo: false, displayModeBar: narrow ? false : "hover",
        showSendToCloud: false, plotlyServerURL: "", // the figures stay on the reader's machine
        modeBarButtonsToRemove: ["sendChartToCloud", "lasso2d", "select2d", "autoScale2d"],
      });
    }
  }
  drawAll();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  window.addEventListener("beforeprint", drawAll);
  window.addEventListener("afterprint", drawAll);
})();
