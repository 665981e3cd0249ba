import { describe } from 'vitest'
import { s3Store } from '../../scripts/store/s3.ts'
import { isS3Missing, startS3 } from '../support/s3.ts'
import { storeContract } from './contract.ts'

describe.skipIf(await isS3Missing())('store s3', () => {
  storeContract(async () => {
    const s3 = await startS3()
    return {
      store: s3Store(s3.spec(await s3.makeBucket(), { prefix: 'some/where' })),
      [Symbol.asyncDispose]: async () => {},
    }
  })
})
