import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { ROOT } from './support/script.ts'

// What is promised, row by row, and the test that shows it.

const ROWS = 137

interface Feature {
  readonly number: number
  readonly name: string
  readonly shown: string
}

const text = await readFile(join(ROOT, 'test/features.md'), 'utf8')
const features: Feature[] = [...text.matchAll(/^\| +(\d+) +\| (.*?) +\| (.*?) +\|$/gm)].map(
  ([, number, name, shown]) => ({ number: Number(number), name: name!, shown: shown! }),
)

test('features: each number is there once, in order', () => {
  expect(features.map(({ number }) => number)).toEqual(Array.from({ length: ROWS }, (_, index) => index + 1))
})

test.each(features)('feature $number: $name: is shown by a test that exists', async ({ name, shown }) => {
  expect(name).not.toBe('')
  if (/^later\b|^not meant: \S/.test(shown)) return
  const named = [...shown.matchAll(/`(test\/[^`]+\.test\.ts)`: ([^`]+?)(?=; `test\/|$)/g)]
  expect(named.map(([whole]) => whole).join('; ')).toBe(shown)
  for (const [, file, title] of named) expect(await titlesOf(file!)).toContain(title)
})

/** The titles of the tests in a file, as they are written there. */
async function titlesOf(file: string): Promise<string[]> {
  const source = await readFile(join(ROOT, file), 'utf8')
  const calls =
    /(?:\b(?:test|describe|each)|\]|\))\(\s*(?:'((?:[^'\\\n]|\\.)+)'|"((?:[^"\\\n]|\\.)+)"|`([^`]+)`)\s*,/g
  return [...source.matchAll(calls)].map(([, ...quoted]) => quoted.find((one) => one !== undefined)!)
}
