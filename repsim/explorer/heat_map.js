// A table of coloured cells, one of which is chosen: by a click, or by the arrow keys.
function render({ model, el }) {
  const note = document.createElement("div");
  note.className = "repsim-gone";
  note.setAttribute("role", "alert");
  note.textContent = "The kernel has gone: run this cell again."; // seen where widgets are disconnected
  const caption = document.createElement("div");
  caption.className = "repsim-caption";
  const table = document.createElement("table");
  table.className = "repsim-map";
  table.tabIndex = 0;
  table.setAttribute("role", "grid");
  table.setAttribute("aria-label", "similarity of layers; arrow keys choose a pair");
  const across = document.createElement("div");
  across.className = "repsim-across";
  el.append(note, caption, table, across);

  function choose(row, column) {
    const rows = model.get("rows").length, columns = model.get("columns").length;
    if (row < 0 || column < 0 || row >= rows || column >= columns) return;
    model.set("chosen", [row, column]);
    model.save_changes();
  }

  function mark() {
    const [row, column] = model.get("chosen");
    for (const old of table.querySelectorAll(".repsim-chosen")) old.classList.remove("repsim-chosen");
    const line = table.rows[table.rows.length - 1 - row];
    if (line && line.cells[column + 1]) line.cells[column + 1].classList.add("repsim-chosen");
    caption.textContent = model.get("caption");
  }

  function draw() {
    const rows = model.get("rows"), columns = model.get("columns");
    const colors = model.get("colors"), texts = model.get("texts");
    table.replaceChildren();
    rows.forEach((name, i) => {
      const line = table.insertRow(0); // from the input, bottom left, to the output
      const head = document.createElement("th");
      head.textContent = name;
      line.append(head);
      columns.forEach((other, j) => {
        const cell = line.insertCell();
        cell.style.background = (colors[i] || [])[j] || "#fff";
        cell.title = `${name} · ${other}: ${(texts[i] || [])[j] || "not known"}`;
        cell.onclick = () => choose(i, j);
      });
    });
    across.textContent = columns.length ? `across: ${columns[0]} … ${columns[columns.length - 1]}` : "";
    mark();
  }

  table.onkeydown = (event) => {
    const [row, column] = model.get("chosen");
    const moves = { ArrowUp: [1, 0], ArrowDown: [-1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    if (!(event.key in moves)) return;
    const [down, right] = moves[event.key];
    choose(row + down, column + right);
    event.preventDefault();
    event.stopPropagation();
  };
  model.on("change:colors change:rows change:columns", draw);
  model.on("change:chosen change:caption", mark);
  draw();
}

export default { render };
