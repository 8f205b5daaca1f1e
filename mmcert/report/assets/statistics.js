'use strict';

// From counts of votes to what is certified, by the rules of mmcert/certify, in double precision
// as there: which components have a p-value that a procedure accepts. Counts of hits are arrays of
// integers; a cut-off is the smallest number of hits that is enough.
const mmcertStatistics = (() => {
  const SMALLEST = 2 ** -1022;
  const LARGEST_TAU = 1 - 1e-12;
  const LATER = 5;
  const STEPS_DOWN = { bonferroni: false, holm: true, ordered_holm: true, kfwer: true };

  // P[Bin(n, p) >= k] for k = 0, ..., n. Each probability is taken relative to the largest one, and
  // they are added from the far end: no term is negative, so no digits are lost.
  function tails(n, p) {
    const odds = p / (1 - p);
    const mode = Math.min(Math.floor((n + 1) * p), n);
    const found = new Float64Array(n + 1);
    found[mode] = 1;
    for (let k = mode; k < n; k += 1) found[k + 1] = found[k] * ((n - k) / (k + 1)) * odds;
    for (let k = mode; k > 0; k -= 1) found[k - 1] = found[k] * (k / (n - k + 1)) / odds;
    for (let k = n; k > 0; k -= 1) found[k - 1] += found[k];
    const whole = found[0];
    return found.map((sum) => sum / whole);
  }

  // binomial.same_draws_p_values, not capped at 1.
  function sameDraws(n, tau, components) {
    const minority = tails(n, 1 - tau);
    const factor = Math.max(components, 1);
    return tails(n, tau).map((tail, hits) => (
      hits > tau * (n - 1) + 1 ? tail + factor * minority[hits] : 1
    ));
  }

  // binomial.p_value_table: the p-value of 0, ..., n hits.
  function pValueTable(n, tau, selection, components) {
    const found = selection === 'holdout' ? tails(n, tau) : sameDraws(n, tau, components);
    return found.map((value) => Math.min(Math.max(value, SMALLEST), 1));
  }

  function bestTau(n, hits, components) {
    const exponent = Math.log(Math.max(components, 1)) / (2 * hits - 1 - n);
    return Math.min(1 / (1 + Math.exp(-exponent)), LARGEST_TAU);
  }

  const balanced = new Map();

  // binomial.balanced_tau: the least threshold at which same draws are tested.
  function balancedTau(n, components, first, later) {
    if (n < 2) return 0.5;
    const key = [n, components, first, later].join();
    if (balanced.has(key)) return balanced.get(key);
    const least = Math.floor((n + 3) / 2);
    const taus = Array.from({ length: n - least + 1 }, (_, i) => bestTau(n, least + i, components));
    const pValue = (hits, tau) => Math.max(sameDraws(n, tau, components)[hits], SMALLEST);
    const smallest = taus.map((tau, i) => pValue(least + i, tau));
    const firstAt = (critical) => {
      const last = smallest.length - 1;
      return smallest[last] <= critical ? smallest.findIndex((p) => p <= critical) : last;
    };
    const [begin, after] = [firstAt(first), firstAt(later)];
    const found = taus[pValue(least + begin, taus[after]) <= first ? after : begin];
    balanced.set(key, found);
    return found;
  }

  // CertifySettings.k_for: a share of the components, or a number, at most all of them; 1 for
  // procedures without k.
  function countOf({ procedure, k }, components) {
    if (procedure !== 'kfwer') return 1;
    const count = k < 1 ? Math.max(1, Math.floor(k * components)) : k;
    return Math.min(count, Math.max(components, 1));
  }

  // selection.settle, for a selection that is known.
  function testedTau({ tau, alpha, procedure }, selection, n, components, k) {
    if (selection === 'holdout') return tau;
    const first = (k * alpha) / Math.max(components, 1);
    const later = Math.min(first * (STEPS_DOWN[procedure] ? LATER : 1), 1);
    return Math.max(tau, balancedTau(n, components, first, later));
  }

  function attains(table, critical) {
    let cutoff = 0;
    while (cutoff < table.length && table[cutoff] > critical) cutoff += 1;
    return cutoff;
  }

  const sum = (counts) => counts.reduce((before, count) => before + count, 0);

  const bonferroni = (counts, table, alpha) => attains(table, alpha / Math.max(sum(counts), 1));

  // base.Family.step_down: the procedure of Lehmann and Romano, and Holm's with k = 1.
  function stepDown(counts, table, alpha, k) {
    const total = sum(counts);
    let before = 0;
    for (let hits = table.length - 1; hits >= 0; hits -= 1) {
      const left = Math.max(total + k - Math.max(before + 1, k), 1);
      if (table[hits] > (k * alpha) / left) return hits + 1;
      before += counts[hits];
    }
    return 0;
  }

  // Components with fewer hits than a cut-off, as certificate.component_order has them: descending
  // by rank, equal ones as in memory, as all are without ranks.
  function componentOrder(hits, cutoff, ranks) {
    const found = new Uint32Array(hits.length);
    let [number, most] = [0, 0];
    for (let component = 0; component < hits.length; component += 1) {
      if (hits[component] >= cutoff) continue;
      found[number] = component;
      number += 1;
      if (ranks !== null && ranks[component] > most) most = ranks[component];
    }
    if (ranks === null) return found.subarray(0, number);
    const starts = new Uint32Array(most + 2);
    for (let at = 0; at < number; at += 1) starts[most - ranks[found[at]] + 1] += 1;
    for (let place = 1; place < starts.length; place += 1) starts[place] += starts[place - 1];
    const order = new Uint32Array(number);
    for (let at = 0; at < number; at += 1) {
      const place = most - ranks[found[at]];
      order[starts[place]] = found[at];
      starts[place] += 1;
    }
    return order;
  }

  // Ordered Holm's last cut-off of Holm, and the components with one hit less that it rejects.
  function orderedHolm(counts, table, alpha, hits, ranks) {
    let cutoff = table.length;
    let remaining = sum(counts);
    let order = null;
    for (;;) {
      while (cutoff > 0 && remaining > 0 && table[cutoff - 1] <= alpha / remaining) {
        cutoff -= 1;
        remaining -= counts[cutoff];
      }
      if (cutoff === 0 || counts[cutoff - 1] === 0) return { cutoff, extra: [] };
      const atCutoff = cutoff < table.length ? table[cutoff] : 0;
      const step = table[cutoff - 1] - atCutoff;
      if ((remaining - counts[cutoff - 1] + 1) * atCutoff + step > alpha) {
        return { cutoff, extra: [] };
      }
      order ??= componentOrder(hits, cutoff, ranks);
      const extra = [];
      let place = 0;
      let failed = false;
      for (const component of order) {
        if (hits[component] < cutoff) place += 1;
        if (hits[component] !== cutoff - 1) continue;
        const ahead = extra.length;
        failed = (remaining - ahead) * atCutoff + (place - ahead) * step > alpha;
        if (failed) break;
        extra.push(component);
      }
      if (failed) return { cutoff, extra };
      cutoff -= 1;
      remaining -= extra.length;
    }
  }

  // What is certified of one input. `counts` has how many components have 0, ..., n counted hits.
  // Ordered Holm needs the hits of all components as well, and what orders them, if anything does.
  // `cutoff` is enough for every component, and `extra` are certified with less; `allowed` of all
  // may be wrong. `rest` is the cut-off of the groups of a hierarchy.
  function certify(settings, { selection, counts, hits = null, ranks = null }) {
    const [n, components] = [counts.length - 1, sum(counts)];
    const k = countOf(settings, components);
    const tau = testedTau(settings, selection, n, components, k);
    const table = pValueTable(n, tau, selection, components);
    const { alpha, procedure } = settings;
    if (procedure !== 'ordered_holm') {
      const cutoff = procedure === 'bonferroni'
        ? bonferroni(counts, table, alpha) : stepDown(counts, table, alpha, k);
      return { cutoff, extra: [], allowed: k - 1, rest: cutoff };
    }
    const found = orderedHolm(counts, table, alpha, hits, ranks);
    const left = sum(counts.slice(0, found.cutoff)) - found.extra.length;
    return { ...found, allowed: 0, rest: attains(table, alpha / Math.max(left, 1)) };
  }

  return { tails, pValueTable, balancedTau, countOf, certify };
})();
