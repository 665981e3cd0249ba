/** A text as one word of POSIX sh. Pure. */
export function shellWord(text: string): string {
  return `'${text.replaceAll("'", String.raw`'\''`)}'`
}

/** A text as a value of postgresql.conf. Pure. */
export function confWord(text: string): string {
  return `'${text.replaceAll('\\', '\\\\').replaceAll("'", "''")}'`
}
