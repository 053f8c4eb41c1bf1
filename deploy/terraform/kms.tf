# Three keys: of stored values (`values`), of the table (`table`), of the trail and its alarms (`logs`).
# Their policies don't hand the account's IAM the right to use them: who may is written here.

locals {
  administrators = { AWS = var.key_administrators }
  root           = { AWS = "arn:${local.partition}:iam::${local.account}:root" }

  # No use of the key, and no CreateGrant, which would be one for others.
  administration = [
    "kms:CancelKeyDeletion", "kms:CreateAlias", "kms:DeleteAlias", "kms:DescribeKey", "kms:DisableKey",
    "kms:DisableKeyRotation", "kms:EnableKey", "kms:EnableKeyRotation", "kms:GetKeyPolicy",
    "kms:GetKeyRotationStatus", "kms:ListGrants", "kms:ListKeyPolicies", "kms:ListKeyRotations",
    "kms:ListResourceTags", "kms:PutKeyPolicy", "kms:ReplicateKey", "kms:RetireGrant", "kms:RevokeGrant",
    "kms:RotateKeyOnDemand", "kms:ScheduleKeyDeletion", "kms:TagResource", "kms:UntagResource",
    "kms:UpdateAlias", "kms:UpdateKeyDescription", "kms:UpdatePrimaryRegion",
  ]

  administration_statements = [
    {
      Sid       = "Administration"
      Effect    = "Allow"
      Principal = local.administrators
      Action    = local.administration
      Resource  = "*"
    },
    {
      # The account's root user alone, and through it no IAM policy: a key without administrators could
      # be saved by nobody else.
      Sid       = "LastResort"
      Effect    = "Allow"
      Principal = local.root
      Action    = local.administration
      Resource  = "*"
      Condition = { StringEquals = { "aws:PrincipalType" = "Account" } }
    },
  ]

  # Every operation with a context, whether or not somebody is allowed it today.
  encryption_operations = [
    "kms:Decrypt", "kms:Encrypt", "kms:GenerateDataKey", "kms:GenerateDataKeyPair",
    "kms:GenerateDataKeyPairWithoutPlaintext", "kms:GenerateDataKeyWithoutPlaintext", "kms:ReEncryptFrom",
    "kms:ReEncryptTo",
  ]

  server_roles = concat([aws_iam_role.server.arn], aws_iam_role.rewrap[*].arn)
  rewrap_roles = aws_iam_role.rewrap[*].arn

  values_policy = {
    Version = "2012-10-17"
    Id      = "${var.name}-values"
    Statement = concat(
      local.administration_statements,
      [
        {
          Sid       = "SealAndOpen"
          Effect    = "Allow"
          Principal = { AWS = local.server_roles }
          Action    = ["kms:Decrypt", "kms:GenerateDataKey"]
          Resource  = "*"
          Condition = local.context_conditions
        },
        {
          # Of status and of every start.
          Sid       = "Look"
          Effect    = "Allow"
          Principal = { AWS = local.server_roles }
          Action    = ["kms:DescribeKey"]
          Resource  = "*"
        },
      ],
      [for role in local.rewrap_roles : {
        Sid       = "Rewrap"
        Effect    = "Allow"
        Principal = { AWS = role }
        Action    = ["kms:ReEncryptFrom", "kms:ReEncryptTo"]
        Resource  = "*"
        Condition = local.context_conditions
      }],
      # Whoever is allowed more by a later hand is refused what has no full context all the same.
      [for name in local.context_names : {
        Sid       = "DemandContext${title(name)}"
        Effect    = "Deny"
        Principal = "*"
        Action    = local.encryption_operations
        Resource  = "*"
        Condition = { Null = { "kms:EncryptionContext:${name}" = "true" } }
      }],
      [
        {
          Sid       = "RefuseOtherContext"
          Effect    = "Deny"
          Principal = "*"
          Action    = local.encryption_operations
          Resource  = "*"
          Condition = { "ForAnyValue:StringNotEquals" = { "kms:EncryptionContextKeys" = local.context_names } }
        },
        {
          Sid       = "RefuseOtherPurpose"
          Effect    = "Deny"
          Principal = "*"
          Action    = local.encryption_operations
          Resource  = "*"
          Condition = { StringNotEquals = { "kms:EncryptionContext:purpose" = local.context_purposes } }
        },
        {
          # No AWS service uses this key, so nobody needs a grant.
          Sid       = "RefuseGrants"
          Effect    = "Deny"
          Principal = "*"
          Action    = ["kms:CreateGrant"]
          Resource  = "*"
        },
      ],
    )
  }

  # DynamoDB asks in the name of who reads, writes or makes the table.
  table_condition = {
    StringEquals = {
      "kms:CallerAccount"                            = local.account
      "kms:ViaService"                               = "dynamodb.${local.region}.amazonaws.com"
      "kms:EncryptionContext:aws:dynamodb:tableName" = var.table_name
    }
  }

  table_key_policy = {
    Version = "2012-10-17"
    Id      = "${var.name}-table"
    Statement = concat(
      local.administration_statements,
      [
        {
          Sid       = "ReadAndWriteTheTable"
          Effect    = "Allow"
          Principal = { AWS = local.server_roles }
          Action    = ["kms:Decrypt"]
          Resource  = "*"
          Condition = local.table_condition
        },
        {
          # What DynamoDB needs of whoever chooses a table's key.
          Sid       = "MakeTheTable"
          Effect    = "Allow"
          Principal = { AWS = concat(var.key_administrators, [aws_iam_role.table.arn]) }
          Action = [
            "kms:Decrypt", "kms:Encrypt", "kms:GenerateDataKey", "kms:GenerateDataKeyWithoutPlaintext",
            "kms:ReEncryptFrom", "kms:ReEncryptTo",
          ]
          Resource  = "*"
          Condition = { StringEquals = local.table_key_via }
        },
        {
          Sid       = "LetDynamoDBKeepIt"
          Effect    = "Allow"
          Principal = { AWS = concat(var.key_administrators, [aws_iam_role.table.arn]) }
          Action    = ["kms:CreateGrant"]
          Resource  = "*"
          Condition = {
            StringEquals = local.table_key_via
            Bool         = { "kms:GrantIsForAWSResource" = "true" }
          }
        },
        {
          Sid       = "Look"
          Effect    = "Allow"
          Principal = { AWS = aws_iam_role.table.arn }
          Action    = ["kms:DescribeKey"]
          Resource  = "*"
        },
      ],
    )
  }

  table_key_via = {
    "kms:CallerAccount" = local.account
    "kms:ViaService"    = "dynamodb.${local.region}.amazonaws.com"
  }

  logs_key_policy = {
    Version = "2012-10-17"
    Id      = "${var.name}-logs"
    Statement = concat(
      local.administration_statements,
      [
        {
          Sid       = "Trail"
          Effect    = "Allow"
          Principal = { Service = "cloudtrail.amazonaws.com" }
          Action    = ["kms:GenerateDataKey"]
          Resource  = "*"
          Condition = {
            StringEquals = { "aws:SourceArn" = local.trail_arn }
            StringLike   = { "kms:EncryptionContext:aws:cloudtrail:arn" = "arn:${local.partition}:cloudtrail:*:${local.account}:trail/*" }
          }
        },
        {
          Sid       = "TrailLooks"
          Effect    = "Allow"
          Principal = { Service = "cloudtrail.amazonaws.com" }
          Action    = ["kms:DescribeKey"]
          Resource  = "*"
          Condition = { StringEquals = { "aws:SourceArn" = local.trail_arn } }
        },
        {
          Sid       = "Events"
          Effect    = "Allow"
          Principal = { Service = "logs.${local.region}.amazonaws.com" }
          Action = [
            "kms:Decrypt", "kms:DescribeKey", "kms:Encrypt", "kms:GenerateDataKey",
            "kms:GenerateDataKeyWithoutPlaintext", "kms:ReEncryptFrom", "kms:ReEncryptTo",
          ]
          Resource  = "*"
          Condition = { ArnEquals = { "kms:EncryptionContext:aws:logs:arn" = local.events_arn } }
        },
        {
          Sid       = "Alarms"
          Effect    = "Allow"
          Principal = { Service = "cloudwatch.amazonaws.com" }
          Action    = ["kms:Decrypt", "kms:GenerateDataKey"]
          Resource  = "*"
          Condition = { StringEquals = { "aws:SourceAccount" = local.account } }
        },
      ],
      length(var.trail_readers) == 0 ? [] : [{
        Sid       = "ReadTheTrail"
        Effect    = "Allow"
        Principal = { AWS = var.trail_readers }
        Action    = ["kms:Decrypt"]
        Resource  = "*"
        Condition = {
          StringEquals = { "kms:ViaService" = "s3.${local.region}.amazonaws.com" }
        }
      }],
    )
  }
}

# Without this key nothing that is stored can be opened again, by anybody.
resource "aws_kms_key" "values" {
  description              = "${var.name}: wraps the data keys of stored values"
  key_usage                = "ENCRYPT_DECRYPT"
  customer_master_key_spec = "SYMMETRIC_DEFAULT"
  multi_region             = var.multi_region
  enable_key_rotation      = true
  rotation_period_in_days  = var.rotation_period_days
  deletion_window_in_days  = var.key_deletion_days
  policy                   = jsonencode(local.values_policy)
  tags                     = local.tags
}

resource "aws_kms_alias" "values" {
  name          = "alias/${var.name}-values"
  target_key_id = aws_kms_key.values.key_id
}

resource "aws_kms_key" "table" {
  description              = "${var.name}: encrypts the table ${var.table_name}"
  key_usage                = "ENCRYPT_DECRYPT"
  customer_master_key_spec = "SYMMETRIC_DEFAULT"
  enable_key_rotation      = true
  rotation_period_in_days  = var.rotation_period_days
  deletion_window_in_days  = var.key_deletion_days
  policy                   = jsonencode(local.table_key_policy)
  tags                     = local.tags
}

resource "aws_kms_alias" "table" {
  name          = "alias/${var.name}-table"
  target_key_id = aws_kms_key.table.key_id
}

resource "aws_kms_key" "logs" {
  description              = "${var.name}: encrypts the trail's files, its events and the alarms' topic"
  key_usage                = "ENCRYPT_DECRYPT"
  customer_master_key_spec = "SYMMETRIC_DEFAULT"
  enable_key_rotation      = true
  rotation_period_in_days  = var.rotation_period_days
  deletion_window_in_days  = var.key_deletion_days
  policy                   = jsonencode(local.logs_key_policy)
  tags                     = local.tags
}

resource "aws_kms_alias" "logs" {
  name          = "alias/${var.name}-logs"
  target_key_id = aws_kms_key.logs.key_id
}
