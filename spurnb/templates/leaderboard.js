'use strict'; // tables that sort by a selected heading
for (const table of document.querySelectorAll('table.sortable')) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  function key(row, k) {
    if (!k) return row.cells[0].textContent;
    const {value} = row.cells[k].dataset;
    return value === undefined ? null : +value;
  }
  heads.forEach((head, k) => head.querySelector('button').onclick = () => {
    const down = k ? head.ariaSort !== 'descending' : head.ariaSort === 'ascending'; // numbers down, names up
    const sign = down ? -1 : 1;
    heads.forEach(h => h.ariaSort = h === head ? (down ? 'descending' : 'ascending') : 'none');
    function compare(a, b) { // empty cells last
      if (a === null || b === null) return (a === null) - (b === null);
      return sign*(k ? a - b : a.localeCompare(b));
    }
    body.append(...[...body.rows].sort((a, b) => compare(key(a, k), key(b, k))));
  });
}
