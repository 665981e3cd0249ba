import pg from 'pg'

/** An identifier as SQL, always quoted: `"a""b"`. */
export function ident(name: string): string {
  return pg.escapeIdentifier(name)
}

/** A text as an SQL literal; backslashes are safe under any standard_conforming_strings. */
export function literal(text: string): string {
  return pg.escapeLiteral(text).trimStart()
}

/** A name for people: bare where SQL would take it bare, else quoted. */
export function show(name: string): string {
  return /^[a-z_][a-z0-9_$]*$/.test(name) ? name : ident(name)
}

/** Names of things inside other things, for people and as keys of maps: `xtelem.public."Odd Name"`. */
export function showPath(...names: readonly string[]): string {
  return names.map(show).join('.')
}
