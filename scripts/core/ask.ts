import { createInterface } from 'node:readline/promises'
import process from 'node:process'
import { interrupted } from './interrupt.ts'

/** Whether a person sits there who can be asked. */
export function canAsk(): boolean {
  return process.stdin.isTTY && process.stderr.isTTY
}

/** Asks a person; anything but `y` or `yes` is no. */
export async function askYes(question: string): Promise<boolean> {
  const prompt = createInterface({ input: process.stdin, output: process.stderr })
  try {
    const answer = await prompt.question(`${question} [y/N] `, { signal: interrupted })
    return /^y(es)?$/i.test(answer.trim())
  } finally {
    prompt.close()
  }
}
