'use strict'; // the filters of the board, and the view of one image
{
const {judges, target, images} = JSON.parse(document.getElementById('data').textContent);
const at = id => document.getElementById(id), step = 24;
const tile = Object.fromEntries([...document.querySelectorAll('img[data-image]')].map(i => [i.dataset.image, i]));
function percent(p) {
  if (p == null) return '';
  return p > 0 && p < .0095 || p > .9905 && p < 1 ? `${(100*p).toFixed(1)}%` : `${Math.round(100*p)}%`;
}
const short = text => text.length > 60 ? `${text.slice(0, 40)}…${text.slice(-15)}` : text; // facts: in full
let list = images, most = step, seen = images, here = 0; // of the board; of the view of one image

function make(tag, props = {}, ...children) { // an element; text is never parsed as HTML
  const node = Object.assign(document.createElement(tag), props);
  node.append(...children.filter(c => c != null));
  return node;
}

/* the board */
const value = id => at(id) ? at(id).value : '';

function wanted(image) {
  const judge = judges.indexOf(value('judge')), verdict = value('verdict'), checks = value('checks');
  const fooled = judge < 0 ? image.votes > 0 : image.hits[judge];
  return (!value('arm') || image.arm === value('arm')) && (!verdict || fooled === (verdict === 'spurious'))
    && (!checks || image.valid === (checks === 'valid'));
}

function ordered(some) {
  const judge = judges.indexOf(value('judge')), mean = p => p.reduce((a, b) => a + b, 0)/p.length;
  const p = i => judge < 0 ? mean(i.p) : i.p[judge], divided = i => Math.abs(i.votes/judges.length - .5);
  const by = {most: (a, b) => b.votes - a.votes || p(b) - p(a), fewest: (a, b) => a.votes - b.votes || p(a) - p(b),
              divided: (a, b) => divided(a) - divided(b), p: (a, b) => p(b) - p(a)}[value('sort')];
  return by ? [...some].sort(by) : some; // stable: ties keep their order
}

function cell(image, j) {
  const [name, p] = image.says[j] ? image.says[j][0] : [image.hits[j] ? target : `not ${target}`, null], v = image.p[j];
  const className = `${image.hits[j] ? 'yes ' : ''}c${+(v > .5)} ${v > .76 ? 't2' : v > .6 ? 'tm' : ''}`;
  const node = make('td', {className, title: `${judges[j]}: ${name}; ${target} ${percent(v)}`},
    make('b', {textContent: name}), make('small', {textContent: percent(p ?? v)}));
  node.style.setProperty('--v', v);
  return node;
}

function row(image, k) {
  const open = make('button', {type: 'button', className: 'open', onclick: () => show(list, k)},
    make('img', {src: tile[image.id].src, alt: ''}),
    make('span', {}, make('bdi', {className: 'called', title: image.title, textContent: image.title}),
      make('small', {textContent: image.valid === false ? 'fails a check' : ''})));
  open.setAttribute('aria-label', `${tile[image.id].alt}; show its answers`);
  const head = make('th', {scope: 'row'}, open);
  const count = make('td', {className: 'count', textContent: `${image.votes} of ${judges.length}`});
  return make('tr', {}, head, count, ...judges.map((_, j) => cell(image, j)));
}

function draw() {
  list = ordered(images.filter(i => i.votes != null && wanted(i)));
  at('rows').replaceChildren(...list.slice(0, most).map(row));
  const none = make('td', {className: 'none', colSpan: judges.length + 2, textContent: 'No image matches.'});
  if (!list.length) at('rows').append(make('tr', {}, none));
  at('shown').textContent = `${list.length} of ${images.filter(i => i.votes != null).length} images`;
  at('more').parentElement.hidden = list.length <= most;
  at('more').textContent = `${Math.min(step, list.length - most)} more of ${list.length - most}`;
}

/* one image */
function line(name, text, left, width, is) {
  const bar = make('i');
  bar.style.setProperty('--l', left);
  bar.style.setProperty('--w', width);
  return make('div', {className: `line${is ? ' is' : ''}`},
    make('span', {textContent: name, title: name}), bar, make('span', {textContent: text}));
}

function answers(image, j) {
  const verdict = image.hits[j] == null ? '' : image.hits[j] ? ' is fooled' : ' is not fooled';
  const said = image.says[j] || (image.p[j] == null ? [] : [[target, image.p[j]]]);
  return make('div', {className: 'answers'}, make('h3', {}, judges[j], make('span', {textContent: verdict})),
    ...said.map(([name, p]) => line(name, percent(p), 0, p, name === target)));
}

function facts(image) {
  const check = {object_absent: [`no ${target} found`, `${target} found`],
                 feature_present: ['feature found', 'feature not found']};
  const known = Object.entries(image.checks).filter(([k, v]) => v != null && check[k]);
  const checks = known.map(([k, v]) => check[k][+!v]).join(', ');
  const {file, prompt, seed, sha256} = image;
  const rows = Object.entries({file, prompt, seed, checks, 'SHA-256': sha256}).filter(([, v]) => v !== '');
  return rows.flatMap(([k, v]) => [make('dt', {textContent: k}),
                                   make('dd', {textContent: v, className: k === 'SHA-256' ? 'hash' : ''})]);
}

function alpha(image) {
  if (!image.alpha.length) return [];
  const reach = Math.max(...image.alpha.map(([, a]) => Math.abs(a)), 1e-9);
  const bars = image.alpha.map(([l, a]) =>
    line(`component ${l}`, a.toFixed(2), a < 0 ? .5 + a/reach/2 : .5, Math.abs(a)/reach/2, a > 0));
  return [make('h3', {textContent: "Contribution to the encoder's logit (alpha)"}), ...bars];
}

function show(some, k) {
  const dialog = at('detail'), image = some[k], large = at('detail-image'), small = tile[image.id];
  seen = some; here = k;
  const votes = image.votes == null ? '' : `: ${image.votes} of ${judges.length} classifiers say ${target}`;
  at('detail-title').replaceChildren(make('bdi', {textContent: short(image.title)}), votes);
  Object.assign(large, {src: small.src, alt: small.alt, className: small.naturalWidth < 128 ? 'small' : ''});
  at('detail-facts').replaceChildren(...facts(image));
  at('detail-alpha').replaceChildren(...alpha(image));
  at('detail-answers').replaceChildren(...(image.votes == null ? [] : judges.map((_, j) => answers(image, j))));
  at('previous').disabled = k === 0;
  at('next').disabled = k === some.length - 1;
  if (!dialog.open) { dialog.showModal(); at('detail-title').focus(); }
  history.replaceState(null, '', `#${small.id}`); // a link to this image
}

function go(by) { if (seen[here + by]) show(seen, here + by); }

at('previous').onclick = () => go(-1);
at('next').onclick = () => go(1);
at('close').onclick = () => at('detail').close();
at('detail').onclose = () => history.replaceState(null, '', '#images');
at('detail').onclick = e => { if (e.target === at('detail')) at('detail').close(); }; // a click outside
at('detail').onkeydown = e => { if (e.key === 'ArrowLeft') go(-1); if (e.key === 'ArrowRight') go(1); };

/* images elsewhere on the page: one tab stop, arrow keys between them */
const all = images.map(i => tile[i.id]);
all.forEach((img, k) => {
  img.classList.add('can');
  img.tabIndex = k ? -1 : 0;
  img.setAttribute('role', 'button');
  img.onclick = () => show(images, k);
  img.onkeydown = e => {
    if (e.key === 'Enter' || e.key === ' ') { e.preventDefault(); show(images, k); }
    const other = all[k + {ArrowLeft: -1, ArrowRight: 1}[e.key]];
    if (other) { e.preventDefault(); img.tabIndex = -1; other.tabIndex = 0; other.focus(); }
  };
});

if (at('board')) {
  at('board-body').hidden = false;
  at('tools').onchange = () => { most = step; draw(); };
  at('tools').onreset = () => setTimeout(() => { most = step; draw(); });
  at('tools').onsubmit = e => e.preventDefault();
  at('more').onclick = () => {
    const first = most;
    most += step;
    draw();
    at('rows').children[first].querySelector('button').focus();
  };
  draw();
}

function linked() { // the image that the address names
  const k = all.findIndex(img => img.id === decodeURIComponent(location.hash.slice(1)));
  if (k >= 0) show(images, k);
}
window.onhashchange = linked;
linked();
}
