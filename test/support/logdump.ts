/**
 * Prints the records of a `.bintel` file as lines of JSON, as the program of a site does: `node logdump.ts -F PATH`.
 * It walks real headers; a payload is a flatbuffer at a site, and JSON here.
 *
 * Exit codes: 0 all was printed, 1 the file ends within a record, 3 a code that is unknown.
 */
import { readFileSync } from 'node:fs'

const CODES: Readonly<Record<number, string>> = { 20_000: 'telem_telpos', 20_850: 'telem_cooler' }

const file = readFileSync(process.argv.at(-1)!)
for (let at = 0; at < file.length;) at = printRecord(at)

/** @returns where the next one begins */
function printRecord(at: number): number {
  if (file.length < at + 12) return end(1, `record at byte ${at}: its header is cut off`)
  const { length, body } = lengthAt(at)
  if (file.length < body + length) return end(1, `record at byte ${at}: ${length} bytes are promised`)
  const code = file.readUInt16LE(at + 1)
  if (CODES[code] === undefined) return end(3, `record at byte ${at}: unknown code ${code}`)
  const second = new Date(file.readUInt32LE(at + 3) * 1000).toISOString().slice(0, 19)
  const fraction = String(file.readUInt32LE(at + 7)).padStart(9, '0')
  const msg = file.toString('utf8', body, body + length)
  process.stdout.write(
    `{"ts": "${second}.${fraction}", "prio": "TELM", "ec": "${CODES[code]}", "msg": ${msg}}\n`,
  )
  return body + length
}

function lengthAt(at: number): { length: number; body: number } {
  const short = file.readUInt8(at + 11)
  if (short === 255) return { length: Number(file.readBigUInt64LE(at + 12)), body: at + 20 }
  if (short === 254) return { length: file.readUInt16LE(at + 12), body: at + 14 }
  return { length: short, body: at + 12 }
}

function end(code: number, message: string): number {
  process.stderr.write(`logdump: ${message}\n`)
  process.exitCode = code
  return file.length
}
