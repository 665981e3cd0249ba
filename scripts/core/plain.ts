/** Text of a host file or a server, in which a name could hold anything: it must not write over the terminal. Pure. */
export function plain(text: string): string {
  return text.replace(/(?!\n)\p{Cc}/gu, (char) => `\\u${char.codePointAt(0)!.toString(16).padStart(4, '0')}`)
}
