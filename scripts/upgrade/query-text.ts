/**
 * Whether two texts of a query, the first by a server before 16 and the second by one since, are of one query. Where a
 * view asks one relation alone, servers before 16 write its name before each column and those since do not: its rule
 * had OLD and NEW besides (src/backend/utils/adt/ruleutils.c, get_query_def: varprefix). Nothing else may differ,
 * neither of which of several relations a column is, nor what stands in a literal. Pure.
 */
export function isSameQuery(older: string, newer: string): boolean {
  const [old, now] = [tokensOf(older), tokensOf(newer)]
  const leftOut = new Set<string>()
  let at = 0
  for (const [index, token] of now.entries()) {
    if (old[at + 1] === '.' && token !== '.' && now[index + 1] !== '.') {
      leftOut.add(old[at]!)
      at += 2
    }
    if (old[at] !== token) return false
    at++
  }
  return at === old.length && leftOut.size <= 1
}

/** Words, quoted names, literals and numbers as one each; of all else each character. White space is none. */
function tokensOf(text: string): string[] {
  return text.match(TOKEN) ?? []
}

// Literals with a backslash are written as E'' (ruleutils.c, simple_quote_literal).
const TOKEN =
  /\bE'(?:[^'\\]|''|\\.)*'|'(?:[^']|'')*'|"(?:[^"]|"")*"|[\p{L}_][\p{L}\p{N}_$]*|\d+(?:\.\d+)?(?:e[+-]?\d+)?|\S/gsu
