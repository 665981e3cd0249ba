import { basename } from 'node:path'
import type { Program } from '../cluster/program.ts'
import { output } from '../core/exec.ts'

/** What a program writes, compressed by zstd. */
export interface Compressed {
  /** A piece is used up when the next one is asked for. */
  readonly bytes: AsyncIterable<Uint8Array>
  /** Bytes that the program wrote, once all was read; undefined when this zstd says it in another way. */
  plainSize(): number | undefined
}

/**
 * Runs a program into zstd without its bytes passing through this process, which halves what a dump costs.
 * When either of them fails, reading throws instead of coming to an end.
 * @param level zstd's; 1 to 19
 */
export function compressedOutput({ argv, options }: Program, level: number, signal: AbortSignal): Compressed {
  let plainSize: number | undefined
  const onStderr = (tail: string) => {
    const size = /\( *(\d+) (?:B|bytes)? *=>/.exec(tail)?.[1]
    plainSize = size === undefined ? undefined : Number(size)
  }
  return {
    bytes: output(['bash', '-c', INTO_ZSTD, String(level), ...argv], {
      ...options,
      signal,
      called: basename(argv[0]!),
      frees: true,
      onStderr,
    }),
    plainSize: () => plainSize,
  }
}

// $0 is the level, the program and its arguments are the rest. The shell itself keeps zstd's input open
// until it knows how the program ended: after a failure zstd is killed and never ends its frame.
// Told to end, bash would leave the program alone, which may wait for a lock: so the trap ends it.
// zstd tells exact sizes with -vv only; of all else that it tells then, errors alone are passed on.
const INTO_ZSTD = String.raw`
trap 'kill $(jobs -p) 2>/dev/null; exit 143' TERM INT HUP
exec 5> >(exec zstd -vv --no-progress --stdout --threads=2 "-$0" 2> >(exec grep -E '^zstd: |=>' >&2))
zstd=$!
"$@" >&5 5>&- &
wait $!
code=$?
if [ $code != 0 ]; then kill -KILL $zstd 2>/dev/null; exit $code; fi
exec 5>&-
wait $zstd`
