# A vault on EKS with everything that the module makes. `terraform output -raw config_toml` is the
# beginning of the server's configuration.

terraform {
  required_version = ">= 1.7.0"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.80.0, < 7.0.0"
    }
  }
}

provider "aws" {
  region = var.region
}

variable "region" {
  description = "The region of the vault."
  type        = string
  default     = "eu-central-1"
}

variable "administrator" {
  description = "ARN of the role that applies this and administers the keys."
  type        = string
}

variable "auditor" {
  description = "ARN of the role that reconciles the trail with the audit log."
  type        = string
}

variable "cluster" {
  description = "Name of the EKS cluster that the server runs on, with EKS Pod Identity."
  type        = string
}

variable "network" {
  description = "Where the server's nodes are: a VPC, or at least subnets and route tables, of the vault alone."
  type = object({
    vpc_id          = string
    subnet_ids      = list(string)
    route_table_ids = list(string)
  })
}

module "vault" {
  source = "../.."

  name               = "ibyok"
  key_administrators = [var.administrator]
  trail_readers      = [var.auditor]

  pod_identity_cluster = var.cluster

  network      = var.network
  client_cidrs = ["10.0.0.0/8"]

  multi_region    = true
  trail_lock_days = 90
  alarm_emails    = ["oncall@example.com"]
  tags            = { Environment = "production" }
}

output "config_toml" {
  description = "The part of the server's configuration that this installation decides."
  value       = module.vault.config_toml
}

output "server_role_arn" {
  description = "The role of the server."
  value       = module.vault.server_role_arn
}

output "trail_bucket" {
  description = "Where the trail's files are."
  value       = module.vault.trail_bucket
}
