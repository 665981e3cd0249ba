const SIZES: Readonly<Record<string, number>> = {
  B: 1,
  kB: 1024,
  KB: 1024,
  MB: 1024 ** 2,
  GB: 1024 ** 3,
  TB: 1024 ** 4,
}

// PostgreSQL's own time units (config.sgml, "Parameter Names and Values"), and weeks.
const SECONDS: Readonly<Record<string, number>> = {
  us: 1e-6,
  ms: 1e-3,
  s: 1,
  min: 60,
  m: 60,
  h: 3600,
  d: 86_400,
  w: 604_800,
}

/** Bytes of a text such as `"64MB"` (1 kB is 1024 bytes, as in PostgreSQL), or `undefined`. */
export function parseSize(text: string): number | undefined {
  const bytes = parseUnit(text, SIZES)
  return bytes === undefined ? undefined : Math.round(bytes)
}

/** Seconds of a text such as `"30d"` or `"500ms"`, or `undefined`. */
export function parseDuration(text: string): number | undefined {
  return parseUnit(text, SECONDS)
}

function parseUnit(text: string, units: Readonly<Record<string, number>>): number | undefined {
  const match = /^(\d+(?:\.\d+)?)\s*([a-zA-Z]+)$/.exec(text.trim())
  const factor = match && Object.hasOwn(units, match[2]!) ? units[match[2]!] : undefined
  return factor === undefined ? undefined : Number(match![1]) * factor
}

/** `1.5 MB`: for people, in units of 1024. */
export function formatSize(bytes: number): string {
  let value = bytes
  for (const unit of ['B', 'kB', 'MB', 'GB']) {
    if (Math.abs(value) < 1000)
      return `${unit === 'B' || value >= 100 ? Math.round(value) : value.toFixed(1)} ${unit}`
    value /= 1024
  }
  return `${value.toFixed(1)} TB`
}

/** `0.35 s`, `2 min 5 s`, `3 h 20 min`, `4 d 2 h`: for people. */
export function formatDuration(seconds: number): string {
  if (seconds < 9.995) return `${seconds.toFixed(2)} s`
  if (seconds < 59.95) return `${seconds.toFixed(1)} s`
  const whole = Math.round(seconds)
  if (whole < 3600) return pair(Math.floor(whole / 60), 'min', whole % 60, 's')
  if (whole < 86_400) return pair(Math.floor(whole / 3600), 'h', Math.floor((whole % 3600) / 60), 'min')
  return pair(Math.floor(whole / 86_400), 'd', Math.floor((whole % 86_400) / 3600), 'h')
}

function pair(big: number, bigUnit: string, small: number, smallUnit: string): string {
  return small === 0 ? `${big} ${bigUnit}` : `${big} ${bigUnit} ${small} ${smallUnit}`
}

/** `1,234,567`: for people. */
export function formatCount(count: number | bigint): string {
  return count.toString().replace(/\B(?=(\d{3})+(?!\d))/g, ',')
}
