'use strict'; // tables that sort at a press on a heading
for (const table of document.querySelectorAll('table.sortable')) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  const key = (row, k) => k ? (row.cells[k].dataset.value === undefined ? null : +row.cells[k].dataset.value) : row.cells[0].textContent;
  heads.forEach((head, k) => head.querySelector('button').onclick = () => {
    const down = k ? head.ariaSort !== 'descending' : head.ariaSort === 'ascending', sign = down ? -1 : 1; // numbers from above, names from A
    heads.forEach(h => h.ariaSort = h === head ? (down ? 'descending' : 'ascending') : 'none');
    const compare = (a, b) => a === null || b === null ? (a === null) - (b === null) : sign*(k ? a - b : a.localeCompare(b)); // empty cells last
    body.append(...[...body.rows].sort((a, b) => compare(key(a, k), key(b, k))));
  });
}
