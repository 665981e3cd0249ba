import { readFileSync } from 'node:fs'
import { join } from 'node:path'

/** Values for the placeholders of a template: several are as many lines, none is no line. */
export type Values = Readonly<Record<string, string | readonly string[] | undefined>>

const FOLDER = join(import.meta.dirname, '../../units')

/** The text of a template of units/. */
export function readTemplate(name: string): string {
  return readFileSync(join(FOLDER, name), 'utf8')
}

/**
 * Fills in a template, line by line. Values are escaped already. Pure.
 * @throws {Error} for a placeholder without a value of its name
 */
export function fillTemplate(template: string, values: Values): string {
  return template
    .split('\n')
    .flatMap((line) => {
      const placeholder = /\{\{(\w+)\}\}/.exec(line)
      if (placeholder === null) return [line]
      const [mark, name] = placeholder as unknown as readonly [string, string]
      if (!Object.hasOwn(values, name)) throw new Error(`a template of a unit has no value for ${mark}`)
      return [values[name] ?? []].flat().map((value) => line.replace(mark, () => value))
    })
    .join('\n')
}
