# Three roles, each with what it needs and nothing by wildcard: the server, a server that also moves data
# keys (`ibyok rewrap`), and `ibyok-server table create|check`.

locals {
  # By the roles' names, how a workload on EKS becomes one of them.
  service_accounts = {
    for role in ["server", "rewrap", "table"] :
    role => "system:serviceaccount:${var.kubernetes.namespace}:${var.kubernetes[role]}"
  }

  trust_statements = {
    for role, account in local.service_accounts : role => concat(
      [for irsa in var.irsa[*] : {
        Sid       = "ServiceAccount"
        Effect    = "Allow"
        Principal = { Federated = irsa.provider_arn }
        Action    = ["sts:AssumeRoleWithWebIdentity"]
        Condition = { StringEquals = {
          "${irsa.issuer}:aud" = "sts.amazonaws.com"
          "${irsa.issuer}:sub" = account
        } }
      }],
      [for cluster in var.pod_identity_cluster[*] : {
        Sid       = "PodIdentity"
        Effect    = "Allow"
        Principal = { Service = "pods.eks.amazonaws.com" }
        Action    = ["sts:AssumeRole", "sts:TagSession"]
        # The tags of the session say which cluster, namespace and service account it is.
        Condition = { StringEquals = {
          "aws:RequestTag/eks-cluster-name"           = cluster
          "aws:RequestTag/kubernetes-namespace"       = var.kubernetes.namespace
          "aws:RequestTag/kubernetes-service-account" = var.kubernetes[role]
          "aws:SourceAccount"                         = local.account
        } }
      }],
      # Without operators the keys' administrators: a role that nobody can take can't be made.
      [for people in [coalescelist(var.operators, var.key_administrators)] : {
        Sid       = "Operators"
        Effect    = "Allow"
        Principal = { AWS = people }
        Action    = ["sts:AssumeRole"]
      } if role != "server"],
      [for service in var.server_services : {
        Sid       = "Tasks"
        Effect    = "Allow"
        Principal = { Service = service }
        Action    = ["sts:AssumeRole"]
        Condition = { StringEquals = { "aws:SourceAccount" = local.account } }
      } if role == "server" && service == "ecs-tasks.amazonaws.com"],
      # EC2 names no source account; who may hand the role to an instance is a matter of iam:PassRole.
      [for service in var.server_services : {
        Sid       = "Instances"
        Effect    = "Allow"
        Principal = { Service = service }
        Action    = ["sts:AssumeRole"]
      } if role == "server" && service == "ec2.amazonaws.com"],
    )
  }

  # What src/store/dynamodb calls. A transaction is authorized as what it consists of.
  items_statements = [
    {
      Sid      = "Items"
      Effect   = "Allow"
      Action   = ["dynamodb:BatchGetItem", "dynamodb:PutItem", "dynamodb:Query"]
      Resource = [aws_dynamodb_table.vault.arn]
    },
    {
      # Only in transactions, which happen once: the server never deletes or updates otherwise.
      Sid       = "Transactions"
      Effect    = "Allow"
      Action    = ["dynamodb:ConditionCheckItem", "dynamodb:DeleteItem", "dynamodb:UpdateItem"]
      Resource  = [aws_dynamodb_table.vault.arn]
      Condition = { StringEquals = { "dynamodb:EnclosingOperation" = "TransactWriteItems" } }
    },
    {
      # At every start: a table that does not fit is refused.
      Sid      = "LookAtTheTable"
      Effect   = "Allow"
      Action   = ["dynamodb:DescribeTable", "dynamodb:DescribeTimeToLive"]
      Resource = [aws_dynamodb_table.vault.arn]
    },
    {
      Sid       = "TableKey"
      Effect    = "Allow"
      Action    = ["kms:Decrypt"]
      Resource  = [aws_kms_key.table.arn]
      Condition = local.table_condition
    },
  ]

  value_keys = concat([aws_kms_key.values.arn], var.other_kms_keys)

  values_statements = [
    {
      Sid       = "SealAndOpen"
      Effect    = "Allow"
      Action    = ["kms:Decrypt", "kms:GenerateDataKey"]
      Resource  = local.value_keys
      Condition = local.context_conditions
    },
    {
      Sid      = "Look"
      Effect   = "Allow"
      Action   = ["kms:DescribeKey"]
      Resource = local.value_keys
    },
  ]

  rewrap_statements = [
    {
      Sid       = "Rewrap"
      Effect    = "Allow"
      Action    = ["kms:ReEncryptFrom", "kms:ReEncryptTo"]
      Resource  = local.value_keys
      Condition = local.context_conditions
    },
  ]

  table_statements = [
    {
      Sid    = "MakeAndLook"
      Effect = "Allow"
      Action = [
        "dynamodb:CreateTable", "dynamodb:DescribeContinuousBackups", "dynamodb:DescribeTable",
        "dynamodb:DescribeTimeToLive", "dynamodb:UpdateContinuousBackups", "dynamodb:UpdateTable",
        "dynamodb:UpdateTimeToLive",
      ]
      Resource = ["arn:${local.partition}:dynamodb:${local.region}:${local.account}:table/${var.table_name}"]
    },
    {
      Sid    = "TableKey"
      Effect = "Allow"
      Action = [
        "kms:Decrypt", "kms:Encrypt", "kms:GenerateDataKey", "kms:GenerateDataKeyWithoutPlaintext",
        "kms:ReEncryptFrom", "kms:ReEncryptTo",
      ]
      Resource  = [aws_kms_key.table.arn]
      Condition = { StringEquals = local.table_key_via }
    },
    {
      Sid      = "LetDynamoDBKeepIt"
      Effect   = "Allow"
      Action   = ["kms:CreateGrant"]
      Resource = [aws_kms_key.table.arn]
      Condition = {
        StringEquals = local.table_key_via
        Bool         = { "kms:GrantIsForAWSResource" = "true" }
      }
    },
    {
      Sid      = "LookAtTheTableKey"
      Effect   = "Allow"
      Action   = ["kms:DescribeKey"]
      Resource = [aws_kms_key.table.arn]
    },
  ]
}

resource "aws_iam_role" "server" {
  name               = "${var.name}-server"
  description        = "What the vault's server may do"
  assume_role_policy = jsonencode({ Version = "2012-10-17", Statement = local.trust_statements["server"] })
  tags               = local.tags

  lifecycle {
    precondition {
      condition     = length(local.trust_statements["server"]) > 0
      error_message = "Say how the server becomes its role: irsa, pod_identity_cluster or server_services."
    }
  }
}

resource "aws_iam_role_policy" "server" {
  name   = "vault"
  role   = aws_iam_role.server.id
  policy = jsonencode({ Version = "2012-10-17", Statement = concat(local.items_statements, local.values_statements) })
}

resource "aws_iam_role" "rewrap" {
  count = var.rewrap_role ? 1 : 0

  name               = "${var.name}-rewrap"
  description        = "What a server may do that also moves data keys between KMS keys"
  assume_role_policy = jsonencode({ Version = "2012-10-17", Statement = local.trust_statements["rewrap"] })
  tags               = local.tags
}

resource "aws_iam_role_policy" "rewrap" {
  count = var.rewrap_role ? 1 : 0

  name = "vault"
  role = aws_iam_role.rewrap[0].id
  policy = jsonencode({
    Version   = "2012-10-17"
    Statement = concat(local.items_statements, local.values_statements, local.rewrap_statements)
  })
}

resource "aws_iam_role" "table" {
  name               = "${var.name}-table"
  description        = "What `ibyok-server table create` and `table check` may do"
  assume_role_policy = jsonencode({ Version = "2012-10-17", Statement = local.trust_statements["table"] })
  tags               = local.tags
}

resource "aws_iam_role_policy" "table" {
  name   = "table"
  role   = aws_iam_role.table.id
  policy = jsonencode({ Version = "2012-10-17", Statement = local.table_statements })
}

# A role of an EC2 instance needs a profile.
resource "aws_iam_instance_profile" "server" {
  count = contains(var.server_services, "ec2.amazonaws.com") ? 1 : 0

  name = aws_iam_role.server.name
  role = aws_iam_role.server.name
  tags = local.tags
}

resource "aws_eks_pod_identity_association" "server" {
  count = var.pod_identity_cluster == null ? 0 : 1

  cluster_name    = var.pod_identity_cluster
  namespace       = var.kubernetes.namespace
  service_account = var.kubernetes.server
  role_arn        = aws_iam_role.server.arn
  tags            = local.tags
}

resource "aws_eks_pod_identity_association" "rewrap" {
  count = var.pod_identity_cluster != null && var.rewrap_role ? 1 : 0

  cluster_name    = var.pod_identity_cluster
  namespace       = var.kubernetes.namespace
  service_account = var.kubernetes.rewrap
  role_arn        = aws_iam_role.rewrap[0].arn
  tags            = local.tags
}

resource "aws_eks_pod_identity_association" "table" {
  count = var.pod_identity_cluster == null ? 0 : 1

  cluster_name    = var.pod_identity_cluster
  namespace       = var.kubernetes.namespace
  service_account = var.kubernetes.table
  role_arn        = aws_iam_role.table.arn
  tags            = local.tags
}
