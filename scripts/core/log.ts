import { fstatSync } from 'node:fs'
import { styleText } from 'node:util'

type Colour = 'red' | 'green' | 'yellow' | 'cyan' | 'dim' | 'bold'

// sd-daemon(3): a line that starts with <N> gets that priority in the journal.
const PRIORITY = { error: '<3>', warning: '<4>', notice: '<5>', info: '<6>' } as const

// The variable is inherited by what a service or a desktop starts, so it counts only when it names our
// own standard error (systemd.exec(5)).
const underSystemd = process.env['JOURNAL_STREAM'] === streamOf(2)

/** Colours text for a terminal; NO_COLOR and anything that is no terminal get it plain. */
export function colour(format: Colour, text: string, stream: NodeJS.WriteStream = process.stdout): string {
  return styleText(format, text, { stream, validateStream: true })
}

/** Writes one line to standard error: everything that is not the result goes there. */
export function log(level: keyof typeof PRIORITY, text: string): void {
  const line = maskUrls(text)
  if (!underSystemd) {
    process.stderr.write(`${line}\n`)
    return
  }
  for (const part of line.split('\n')) process.stderr.write(`${PRIORITY[level]}${part}\n`)
}

/** Hides the password of every URL in a text; rather more than less where one holds a `@` or a `/`. */
export function maskUrls(text: string): string {
  return text
    .replace(/\b([a-z][a-z0-9+.-]*:\/\/[^\s:/@]*):\S*@/gi, '$1:***@')
    .replace(/([?&]password=)[^\s&"']+/gi, '$1***')
}

function streamOf(descriptor: number): string | undefined {
  try {
    const { dev, ino } = fstatSync(descriptor)
    return `${dev}:${ino}`
  } catch {
    return undefined // closed: then nobody reads it
  }
}
