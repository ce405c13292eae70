/** The exact two-sided p-value of McNemar's test: twice the binomial tail of 1/2, at most 1.
 * @param {number} onlyFirst examples that only the first model has
 * @param {number} onlySecond
 */
export function mcnemar(onlyFirst, onlySecond) {
  const n = onlyFirst + onlySecond;
  const k = Math.min(onlyFirst, onlySecond);
  if (onlyFirst === onlySecond) return 1;
  // Terms C(n, i) / 2^n in logarithms, which neither overflow nor vanish.
  let term = -n * Math.LN2;
  let tail = Math.exp(term);
  for (let i = 1; i <= k; i++) {
    term += Math.log((n - i + 1) / i);
    tail += Math.exp(term);
  }
  return Math.min(1, 2 * tail);
}

/** A p-value as text, with two significant digits. */
export function pValue(p) {
  if (p >= 0.1) return p.toFixed(2);
  if (p >= 0.001) return p.toPrecision(2);
  if (p === 0) return "below 1e−300";
  const [digits, exponent] = p.toExponential(1).split("e-");
  return `${digits} · 10⁻${[...exponent].map((digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit]).join("")}`;
}
