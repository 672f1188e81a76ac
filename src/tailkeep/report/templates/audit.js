(function () {
  "use strict";
  var all = function (what, within) { return Array.prototype.slice.call((within || document).querySelectorAll(what)); };

  // The images of one class, or of one kind of change.
  all(".flips").forEach(function (part) {
    var filters = all("[data-filter]", part), images = all(".gallery > li", part), said = part.querySelector(".shown");
    function show() {
      var left = images.filter(function (image) {
        image.hidden = filters.some(function (filter) {
          return filter.value !== "" && image.getAttribute("data-" + filter.getAttribute("data-filter")) !== filter.value;
        });
        return !image.hidden;
      });
      said.textContent = left.length === images.length ? "" : left.length + " of " + images.length;
    }
    filters.forEach(function (filter) { filter.addEventListener("change", show); });
    all(".filter", part).forEach(function (bar) { bar.hidden = false; });
  });
})();
