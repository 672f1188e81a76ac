(function () {
  "use strict";
  var tip = document.getElementById("tip");
  var all = function (what, within) { return Array.prototype.slice.call((within || document).querySelectorAll(what)); };

  // Marks carry their words as <title>, which works without a script; with one they show at once.
  all(".drawing title").forEach(function (title) {
    title.parentNode.setAttribute("data-tip", title.textContent);
    title.remove();
  });
  function place(event) {
    var mark = event.target.closest ? event.target.closest("[data-tip]") : null;
    tip.hidden = !mark;
    if (!mark) { return; }
    tip.textContent = mark.getAttribute("data-tip");
    var box = tip.getBoundingClientRect();
    var left = Math.min(Math.max(8, event.clientX - box.width / 2), window.innerWidth - box.width - 8);
    var top = event.clientY - box.height - 14;
    tip.style.transform = "translate(" + left + "px," + (top < 8 ? event.clientY + 18 : top) + "px)";
  }
  document.addEventListener("pointermove", place);
  document.addEventListener("pointerdown", place);
  document.addEventListener("scroll", function () { tip.hidden = true; }, true);

  // One method singled out in every figure and table.
  var picks = all("[data-pick]");
  function show(number) {
    picks.forEach(function (button) {
      button.setAttribute("aria-pressed", String(button.getAttribute("data-pick") === number));
    });
    all("[data-m]").forEach(function (mark) {
      mark.classList.toggle("off", number !== null && mark.getAttribute("data-m") !== number);
    });
  }
  picks.forEach(function (button) {
    button.addEventListener("click", function () {
      show(button.getAttribute("aria-pressed") === "true" ? null : button.getAttribute("data-pick"));
    });
  });
  all(".bar").forEach(function (bar) { bar.hidden = picks.length < 2; });

  // A head sorts its column: up, down, and back to the study's order. What is not known stays last.
  all("tbody").forEach(function (body) {
    all("tr", body).forEach(function (row, i) { row.setAttribute("data-row", String(i)); });
  });
  function value(row, i) {
    var cell = row.cells[i];
    return cell.hasAttribute("data-v") ? Number(cell.getAttribute("data-v")) : cell.textContent;
  }
  function compare(a, b) {
    if (typeof a === "number" && typeof b === "number") { return a - b; }
    if (typeof a !== typeof b) { return 0; }
    return a.localeCompare(b, undefined, { numeric: true });
  }
  all("th button").forEach(function (button) {
    button.addEventListener("click", function () {
      var head = button.parentNode, table = head.closest("table"), body = table.tBodies[0], i = head.cellIndex;
      var now = head.getAttribute("aria-sort");
      var next = now === "ascending" ? "descending" : now === "descending" ? null : "ascending";
      all("th", table).forEach(function (other) { other.removeAttribute("aria-sort"); });
      if (next) { head.setAttribute("aria-sort", next); }
      var numbers = all("[data-v]", body).some(function (cell) { return cell.cellIndex === i; });
      Array.prototype.slice.call(body.rows).sort(function (x, y) {
        if (!next) { return x.getAttribute("data-row") - y.getAttribute("data-row"); }
        var a = value(x, i), b = value(y, i);
        if (numbers && typeof a !== typeof b) { return typeof a === "number" ? -1 : 1; }
        return (next === "descending" ? -1 : 1) * compare(a, b);
      }).forEach(function (row) { body.appendChild(row); });
    });
  });
})();
