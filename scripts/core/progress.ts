import { formatDuration } from './quantity.ts'

/** One line on a terminal that is written over while work goes on; silent anywhere else. */
export interface Progress extends Disposable {
  /** Shows a state; called as often as convenient, drawn ten times a second at most. */
  show(text: string): void
}

/**
 * Begins a progress line such as `restore: 120 MB of 2.3 GB, 0.8 s`; disposed of, the line is erased.
 * @param quiet keeps it silent even on a terminal (`--json`)
 */
export function beginProgress(label: string, quiet = false): Progress {
  const stream = process.stderr
  if (quiet || !stream.isTTY) return { show() {}, [Symbol.dispose]() {} }
  const begun = performance.now()
  let text = ''
  const draw = () => {
    const line = `${label}: ${text}${text && ', '}${formatDuration((performance.now() - begun) / 1000)}`
    // Never wrapped, since only one line is written over; some terminals say that they have no width.
    stream.write(`\r\x1b[K${line.slice(0, (stream.columns || 80) - 1)}`)
  }
  const timer = setInterval(draw, 100)
  timer.unref()
  return {
    show(state) {
      text = state
    },
    [Symbol.dispose]() {
      clearInterval(timer)
      stream.write('\r\x1b[K')
    },
  }
}
