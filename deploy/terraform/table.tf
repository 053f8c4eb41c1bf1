# The table, as `ibyok-server table check` wants it. What its key and attributes are called is said in
# src/store/dynamodb/item.rs.

resource "aws_dynamodb_table" "vault" {
  name         = var.table_name
  billing_mode = "PAY_PER_REQUEST"
  hash_key     = "pk"
  range_key    = "sk"

  attribute {
    name = "pk"
    type = "S"
  }

  attribute {
    name = "sk"
    type = "S"
  }

  # Only sweeps: the server checks expiry itself.
  ttl {
    enabled        = true
    attribute_name = "exp"
  }

  point_in_time_recovery {
    enabled = true
  }

  # A key apart from that of stored values: DynamoDB uses it for whoever reads the table, without the
  # vault's encryption context.
  server_side_encryption {
    enabled     = true
    kms_key_arn = aws_kms_key.table.arn
  }

  # Nothing reads a stream of the vault.
  stream_enabled              = false
  deletion_protection_enabled = var.deletion_protection
  tags                        = local.tags
}
